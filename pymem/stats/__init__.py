"""What a runtime has counted, in the forms that Go shows it."""
