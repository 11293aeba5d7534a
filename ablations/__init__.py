"""Which experiments exist: grids of cells, what is missing of them, and how it is launched."""
