"""Send the model to the data: MFD walks and GaisNet split learning on Lightning and Flower."""
