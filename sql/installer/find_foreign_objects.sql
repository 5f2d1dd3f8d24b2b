-- What in schema dagbump is not provably ours. For the command line and the plugin, before they call anything there.
@include:foreign_objects@
