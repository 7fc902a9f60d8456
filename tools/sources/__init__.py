"""Where images come from: every data set as a sequence of samples that load when asked to."""
