-- Takes: nothing.
-- True if a past try of a TI of the run was on that version. FALSE, because past tries are rows of task_instance here,
-- and the caller has read them with the other TIs.
FALSE
