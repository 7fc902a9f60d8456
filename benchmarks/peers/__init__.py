"""Whatever is measured against ours.

Loaders, whose `open_epochs(path, config)` gives their `Epochs` (`benchmarks.contenders` lists them): `dali`,
`huggingface_datasets`, `limit`, `litdata_loader`, `mosaic_streaming`, `spdl_loader`, `timm_loader`,
`torchvision_folder`, `torchvision_loader` and `webdataset_loader`; what several of them need: `pictures` and
`worker_processes`. Whole images: `decoders`. Converters: `ffcv_writer`. Augmentation: `augmentation`. Training:
`timm_train`, and in `our_training` the trainer itself, whole and in parts.
"""
