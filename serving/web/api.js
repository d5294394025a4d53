// What the server says. The browser keeps answers and asks whether they still hold (ETag).

export class Failure extends Error {
  // `isFinal`: asking again can't help, since the question is at fault.
  constructor(message, isFinal = false) {
    super(message);
    this.isFinal = isFinal;
  }
}

export async function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  let response;
  try {
    response = await fetch(`api/${path}${query.size ? `?${query}` : ""}`, { signal, headers: { Accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server can't be reached.");
  }
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Failure(told.error || `The server answered ${response.status}.`, response.status < 500);
  }
  return response.json();
}
