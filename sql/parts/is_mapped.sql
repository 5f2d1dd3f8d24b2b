-- Takes: nothing.
-- True if the TI makes verify_integrity look at map indexes. FALSE, because up to Airflow 3.3 only the tasks of the
-- version decide that.
FALSE
