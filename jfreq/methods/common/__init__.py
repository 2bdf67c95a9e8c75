"""What several papers share: patches, raw sensors, sensor spectra, features, an EMA teacher."""
