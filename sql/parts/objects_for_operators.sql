-- Takes: nothing.
-- What an operator is granted; what a later revision brings is among it by itself.
SELECT object.*
FROM (
    @include:objects_of_schema@
) AS object
WHERE NOT @include:for_the_owner@
