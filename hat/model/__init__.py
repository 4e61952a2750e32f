"""The weight-sharing SuperTransformer and the stand-alone SubTransformers cut from it."""
