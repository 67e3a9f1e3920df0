"""SRN scenes as a TensorFlow Datasets builder, without TensorFlow.

Importing this package registers the dataset `tfds_srn` with its configs
`cars`, `chairs`, `synthetic_cars` and `folder`. Where tensorflow-datasets is
missing, the modules that draw and parse scenes work all the same.
"""

try:
  from tfds_srn.tfds_srn_dataset_builder import Builder
  from tfds_srn.tfds_srn_dataset_builder import SrnConfig
except ModuleNotFoundError as error:
  if error.name != "tensorflow_datasets":
    raise

__all__ = ["Builder", "SrnConfig"]
