/** What test clusters sign and admit with. */
export const SECRET = "a-secret-that-only-tests-ever-use-0000";
export const INTERNAL_TOKEN = "an-internal-token-only-tests-ever-use";
