-- Lists what in schema dagbump may not be ours. The command line and the plugin run it before they call anything there.
@include:foreign_objects@
