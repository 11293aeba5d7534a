"""Tables: which (scores, cost, tasks), and how they look (render, latex, html)."""
