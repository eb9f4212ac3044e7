"""Tables, curves, overlays and the HTML report; never imported by training."""
