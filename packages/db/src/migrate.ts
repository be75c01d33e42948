import { migrate } from './schema.ts';

const url = process.env.DATABASE_URL;
if (!url) {
  console.error('DATABASE_URL is not set');
  process.exit(1);
}
try {
  const ran = await migrate(url);
  console.log(ran.length === 0 ? 'schema is up to date' : `migrated: ${ran.join(', ')}`);
} catch (error) {
  // Of several addresses that all refuse, the error has no message.
  const { message, code } = error as { message?: string; code?: string };
  console.error(`The migration failed: ${message || code}`);
  process.exit(1);
}
