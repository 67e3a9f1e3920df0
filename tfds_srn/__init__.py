"""SRN scenes as a TensorFlow Datasets builder, without TensorFlow.

Importing this package registers the dataset `tfds_srn` with its configs
`cars`, `chairs`, `synthetic_cars` and `folder`.
"""

from tfds_srn.tfds_srn_dataset_builder import Builder
from tfds_srn.tfds_srn_dataset_builder import SrnConfig

__all__ = ["Builder", "SrnConfig"]
