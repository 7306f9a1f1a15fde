/** Can containers of these images run here? Tests that need them say that they skip where they cannot. */
import { setTimeout as sleep } from "node:timers/promises";
import { getContainerRuntimeClient, ImageName } from "testcontainers";

/** Why an image cannot be run here; undefined when it can. */
export type Obstacle = string | undefined;

const PULL_MAX_MS = 60_000;

// The reaper is one more image to have; a test stops what it started.
process.env["TESTCONTAINERS_RYUK_DISABLED"] = "true";

/** What stands in the way of running the images; those that are not here are pulled, within a minute. */
export async function obstacleTo(images: readonly string[]): Promise<Obstacle> {
  const engine = await getContainerRuntimeClient().catch(() => undefined);
  if (engine === undefined) return "no Docker engine answers";
  const pull = async (image: string): Promise<Obstacle> => {
    const name = ImageName.fromString(image);
    if (await engine.image.exists(name)) return undefined;
    await engine.image.pull(name);
    return (await engine.image.exists(name)) ? undefined : `the image ${image} cannot be pulled`;
  };
  const lateness = `the images are not here and were not pulled within ${PULL_MAX_MS / 1000} s`;
  const late = sleep(PULL_MAX_MS, lateness, { ref: false });
  const pulled = Promise.all(images.map(pull)).then(
    (obstacles) => obstacles.find((each) => each !== undefined),
    (error: unknown) => `the images are not here and cannot be pulled: ${String(error)}`,
  );
  return Promise.race([pulled, late]);
}
