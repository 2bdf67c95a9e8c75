"""What several papers share: patches, raw sensors, spectra of sensors, a teacher."""
