-- Takes: ti.
ti.map_index
