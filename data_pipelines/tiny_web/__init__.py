"""The tiny web: a seeded fictional world and the pages, questions and programs written about it."""
