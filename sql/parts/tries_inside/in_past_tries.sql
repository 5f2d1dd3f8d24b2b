-- Takes: nothing.
-- True where a past try of a TI of the run was on that version. Past tries are rows of task_instance, and have been
-- looked at with the others.
FALSE
