import { testHistories } from './books-world.ts';

testHistories(1);
