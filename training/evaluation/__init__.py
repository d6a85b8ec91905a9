"""What a trained model is worth: a function a file."""
