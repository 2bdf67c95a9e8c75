"""What several papers share: patches, raw sensors, sensor spectra, pooling, an EMA teacher."""
