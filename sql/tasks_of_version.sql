-- dagbump.tasks_of_version: lists the tasks of a dag_version, as Airflow serialized them.
--
-- dagbump.verify_scope and dagbump.preview call it. It is a separate function, because
-- its exception block keeps one broken serialized DAG from failing the whole query. Its
-- plan is made under the settings of its callers.
--
-- It reads what SerializedDAG.from_dict reads, up to Airflow 3.4:
--
--     {"__version": 3,                                    2 in Airflow 3.0
--      "dag": {"start_date": 1704067200.0, "end_date": ...,  seconds since 1970, for tasks without a date of their own
--              "task_group": {... "is_mapped": true ...},      at any depth; "loop": {"gate_task_id": ...} in a loop
--              "tasks": [{"__type": "operator",
--                         "__var": {"task_id": "...", "start_date": ..., "end_date": ..., "_is_mapped": true}}]}}
--
-- The column data is of type json up to Airflow 3.1, and json allows text that jsonb does
-- not. It is JSON null if Airflow compresses its DAGs.

CREATE OR REPLACE FUNCTION dagbump.tasks_of_version(
    dag_version_id uuid,
    OUT task_ids text[],
    OUT start_dates timestamptz[],
    OUT end_dates timestamptz[],
    OUT has_mapped boolean
)
LANGUAGE plpgsql STABLE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $tasks_of_version$
#variable_conflict use_column
DECLARE
    data jsonb;
    tasks jsonb;
    dag_start_date text;
    dag_end_date text;
    number_of_tasks bigint;
    has_dynamic_group boolean;
BEGIN
    -- Variables, so that json is parsed and turned into jsonb only once, and the tasks are copied only once.
    SELECT serialized.data::jsonb INTO data
    FROM @airflow_schema@.serialized_dag AS serialized
    WHERE serialized.dag_version_id = tasks_of_version.dag_version_id;
    tasks := data #> '{dag,tasks}'::text[];
    dag_start_date := data #>> '{dag,start_date}'::text[];
    dag_end_date := data #>> '{dag,end_date}'::text[];

    IF (data #>> '{__version}'::text[]) IN ('2', '3') AND pg_catalog.jsonb_typeof(tasks) = 'array' THEN
        SELECT
            pg_catalog.array_agg(task.json #>> '{__var,task_id}'::text[])
                FILTER (WHERE (task.json #>> '{__type}'::text[]) = 'operator'),
            pg_catalog.array_agg(pg_catalog.to_timestamp(
                coalesce(task.json #>> '{__var,start_date}'::text[], dag_start_date)::double precision
            )),
            pg_catalog.array_agg(pg_catalog.to_timestamp(
                coalesce(task.json #>> '{__var,end_date}'::text[], dag_end_date)::double precision
            )),
            coalesce(pg_catalog.bool_or((task.json #>> '{__var,_is_mapped}'::text[]) = 'true'), FALSE),
            pg_catalog.count(*)
        INTO task_ids, start_dates, end_dates, has_mapped, number_of_tasks
        FROM pg_catalog.jsonb_array_elements(tasks) AS task (json);

        has_dynamic_group := pg_catalog.jsonb_path_exists(
            data, '$.dag.task_group.** ? (@.is_mapped == true || exists(@.loop.gate_task_id))'::jsonpath
        );
        has_mapped := has_mapped OR has_dynamic_group;

        -- If any task has an unknown shape, or the DAG has a loop, task_ids is NULL. Which tasks of a loop have TIs
        -- depends on its progress.
        task_ids := coalesce(task_ids, '{}');
        IF pg_catalog.cardinality(task_ids) <> number_of_tasks OR pg_catalog.array_position(task_ids, NULL) IS NOT NULL
            OR (has_dynamic_group AND pg_catalog.jsonb_path_exists(data, '$.dag.task_group.**.loop.gate_task_id'::jsonpath)) THEN
            task_ids := NULL;
        END IF;
    END IF;
EXCEPTION
    WHEN data_exception OR program_limit_exceeded THEN
        task_ids := NULL;
END
$tasks_of_version$;

COMMENT ON FUNCTION dagbump.tasks_of_version(uuid) IS
'Internal: lists the tasks of a dag_version, from its serialized_dag row.

dagbump.verify_scope and dagbump.preview call it. It answers three arrays of the same length, with one
element for each task: its task_id, its start_date and its end_date. A task without a date of its own has
that of the DAG. It also answers whether the DAG has a mapped task or a mapped task group.
task_ids is NULL if the tasks cannot be read: there is no such row, Airflow has compressed it, or the
format is not known. Such a row raises no error.';

REVOKE ALL ON FUNCTION dagbump.tasks_of_version(uuid) FROM PUBLIC;
