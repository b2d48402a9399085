"""Write pages: facts to Markdown, Markdown to one HTML file, numbers to text. Level 0."""
