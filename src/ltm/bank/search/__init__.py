"""Which chunks a query finds: exactly, in clusters, by faiss or by Qdrant, over any search keys."""
