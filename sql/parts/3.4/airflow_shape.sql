-- Takes: nothing.
-- The Airflow releases whose tables have the shape that the functions are rendered for.
'3.4'
