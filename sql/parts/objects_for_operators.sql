-- Takes: nothing.
-- Everything that an operator is granted. What a later revision adds is included automatically.
SELECT object.*
FROM (
    @include:objects_of_schema@
) AS object
WHERE NOT @include:for_the_owner@
