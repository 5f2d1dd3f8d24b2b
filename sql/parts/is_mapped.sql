-- Takes: nothing.
-- True if a TI is or was a TI of a mapped task, as far as the TI tells. FALSE, because here only the serialized DAG
-- tells that verify_integrity also looks at the indexes.
FALSE
