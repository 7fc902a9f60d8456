"""What lies next to the images as text: manifests of subsets, record lists and cards."""
