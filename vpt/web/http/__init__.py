"""What every route shares: who asks, what a request holds, how an answer is made."""
