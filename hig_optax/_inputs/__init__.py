"""Trees in, flat arrays out: parameters as columns, a batch as samples and rows, settings once checked."""
