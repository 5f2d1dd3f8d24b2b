-- Lists the objects of schema dagbump that dagbump may not have created. The command line and the plugin run it before
-- they call anything in that schema.
@include:foreign_objects@
