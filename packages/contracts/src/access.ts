import { z } from 'zod';

/** The role of a caller. A member records and reads with one key; `service` is one of Tally's own processes. */
export const Role = z.enum(['producer', 'member', 'viewer', 'analyst', 'admin', 'service']);
export type Role = z.infer<typeof Role>;

/**
 * The permission a procedure requires. record: write usage; read: see usage; define: create custom metrics; admin:
 * change what others see; internal: only Tally's own services.
 */
export const Access = z.enum(['record', 'read', 'define', 'admin', 'internal']);
export type Access = z.infer<typeof Access>;

const GRANTS: Record<Role, readonly Access[]> = {
  producer: ['record'],
  member: ['record', 'read'],
  viewer: ['read'],
  analyst: ['read', 'define'],
  admin: ['record', 'read', 'define', 'admin', 'internal'],
  service: ['record', 'read', 'admin', 'internal'],
};

/** Returns true if a role may call a procedure that declares `access`. */
export function grants(role: Role, access: Access): boolean {
  return GRANTS[role].includes(access);
}
