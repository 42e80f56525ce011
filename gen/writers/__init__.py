"""Files: what a forecast file holds (`spec`), how it is staged safely (`staged`), and the containers it may take."""
