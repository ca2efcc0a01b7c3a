"""What a person should know before the numbers of a study are used."""
