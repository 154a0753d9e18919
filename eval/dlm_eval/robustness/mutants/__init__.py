"""Plants small faults in the library one by one, and finds those that no test notices."""
