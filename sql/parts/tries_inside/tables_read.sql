-- Takes: nothing.
-- The tables of Airflow that the functions read, as constants.
ARRAY[
    @dag_literal@::regclass,
    @dag_run_literal@::regclass,
    @dag_version_literal@::regclass,
    @serialized_dag_literal@::regclass
]
