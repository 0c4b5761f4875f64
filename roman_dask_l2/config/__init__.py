"""What users write: the YAML file, its messages, recipes, the layer language, JSON Schemas."""
