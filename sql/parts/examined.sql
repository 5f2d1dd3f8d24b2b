-- Takes: run, dag, latest, serialized.
-- True for an examined run; that it is running has to be checked elsewhere. There are two conditions, so that the
-- planner can test the first before it looks the version up.
(@include:obstacle_of_run@) IS NULL
AND (@include:obstacle_of_version@) IS NULL
