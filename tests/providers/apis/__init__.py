"""The APIs of the model providers, one module for each: requests to answers, whole and streamed."""
