"""Changes of a training batch before it is embedded; the folder is the registry."""
