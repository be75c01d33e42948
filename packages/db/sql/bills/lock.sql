-- One change of bills at a time, so that their ids are in the order of their commits.
lock table bills in share row exclusive mode
