import { Access, grants, Role } from '@tally/contracts';
import { expect, test } from 'vitest';
import { GRANTS } from './session.tsx';

test('the page knows of every role what the contracts grant it', () => {
  for (const role of Role.options)
    expect([role, GRANTS[role].toSorted()]).toEqual([
      role,
      Access.options.filter((access) => grants(role, access)).toSorted(),
    ]);
});
