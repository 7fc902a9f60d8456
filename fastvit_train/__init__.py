"""The trainer: ViT and ResNet image classifiers from a config; `train.py` is the file to read first."""
