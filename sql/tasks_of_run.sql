-- dagbump.tasks_of_run: names the tasks of a running DAG run that are stale, missing or vanished, a page at a time.
--
-- For the page in Airflow's UI. Reads only: it locks nothing and runs on a hot standby.

CREATE OR REPLACE FUNCTION dagbump.tasks_of_run(
    dag_run_id bigint,
    search text DEFAULT NULL,
    page integer DEFAULT 1,
    page_size integer DEFAULT 50
) RETURNS TABLE (
    task_id text,
    map_index integer,
    state text,
    version_number integer,
    stale boolean,
    missing boolean,
    vanished boolean,
    total integer
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
@include:settings@
AS $tasks_of_run$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := FALSE;
    dag_ids CONSTANT text[] := NULL;
    chosen CONSTANT bigint[] := ARRAY[dag_run_id];
    needle CONSTANT text := coalesce(pg_catalog.lower(search), '');
BEGIN
    @include:require_tables@
    IF (page >= 1 AND page_size >= 1) IS NOT TRUE THEN
        RAISE EXCEPTION 'page and page_size must be 1 or more'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    RETURN QUERY
    WITH judged AS MATERIALIZED (
        @include:judged_runs@
    ),

    scoped AS MATERIALIZED (
        @include:scoped_runs@
    ),

    scope AS (
        @include:scope_of_runs@
    ),

    run AS MATERIALIZED (
        SELECT
            run.dag_id,
            run.run_id,
            run.dag_version_id,
            run.pinned_version_id,
            coalesce(scope.missing_tasks, '{}') AS missing_tasks,
            coalesce(scope.vanished_tasks, '{}') AS vanished_tasks
        FROM judged AS run
        CROSS JOIN scope
    ),

    task AS (
        SELECT
            missing.task_id,
            NULL::integer AS map_index,
            NULL::text AS state,
            NULL::uuid AS dag_version_id,
            FALSE AS stale,
            TRUE AS missing,
            FALSE AS vanished
        FROM run
        CROSS JOIN LATERAL pg_catalog.unnest(run.missing_tasks) AS missing (task_id)
        UNION ALL
        SELECT ti.task_id, ti.map_index, ti.state, ti.dag_version_id, ti.stale, FALSE, ti.vanished
        FROM run
        CROSS JOIN LATERAL (
            SELECT
                ti.task_id::text AS task_id,
                @include:map_index@,
                coalesce(ti.state::text, 'no_status') AS state,
                ti.dag_version_id,
                (ti.dag_version_id = run.dag_version_id OR ti.dag_version_id = run.pinned_version_id) IS NOT TRUE AS stale,
                ti.task_id::text = ANY (run.vanished_tasks) AS vanished
            FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE @include:of_run@
            AND @include:unfinished@
        ) AS ti
        WHERE ti.stale OR ti.vanished
    )

    SELECT
        task.task_id,
        task.map_index,
        task.state,
        version.version_number,
        task.stale,
        task.missing,
        task.vanished,
        task.total
    FROM (
        SELECT task.*, (pg_catalog.count(*) OVER ())::integer AS total
        FROM task
        WHERE pg_catalog.strpos(pg_catalog.lower(task.task_id), needle) > 0
        ORDER BY task.missing DESC, task.vanished DESC, task.task_id COLLATE pg_catalog."C", task.map_index
        LIMIT page_size
        OFFSET (page - 1)::bigint * page_size::bigint
    ) AS task
    LEFT JOIN LATERAL (
        SELECT version.version_number
        FROM @airflow_schema@.dag_version AS version
        WHERE version.id = task.dag_version_id
        OFFSET 0 -- keeps the planner from turning this look-up into a join
    ) AS version ON TRUE
    ORDER BY task.missing DESC, task.vanished DESC, task.task_id COLLATE pg_catalog."C", task.map_index;
END
$tasks_of_run$;

COMMENT ON FUNCTION dagbump.tasks_of_run(bigint, text, integer, integer) IS
'Internal: names the tasks of a running DAG run that are stale, missing or vanished.

For the page in Airflow''s UI. Answers one row per missing task, and one per stale or vanished task
instance (TI): missing tasks first, then vanished ones, then by task_id and map_index.
  search          only tasks with this in their id, whether in upper or lower case; NULL: all
  page, page_size the page to answer, from 1 on, and how many rows it has at most

Each row has:
  map_index       NULL: the task is missing
  state           no_status: the TI has no state; NULL: the task is missing
  version_number  of the TI; NULL: it has no version, or the task is missing
  total           how many rows there are on all pages
No row if the run is not running, or is as it should be. Reads only; runs on a hot standby. Locks: none.
Errors: 22023 if page or page_size is less than 1 or NULL.';

REVOKE ALL ON FUNCTION dagbump.tasks_of_run(bigint, text, integer, integer) FROM PUBLIC;
