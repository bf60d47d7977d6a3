"""Tables, figures and statistics from stored cells. Nothing here needs torch or ray."""
