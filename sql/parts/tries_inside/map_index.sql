-- Takes: ti.
ti.region_index AS map_index
