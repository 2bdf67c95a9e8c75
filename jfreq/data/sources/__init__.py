"""Where recordings come from: folders, indexes, published data sets, synthetic signals."""
