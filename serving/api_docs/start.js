SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  // Else it asks another host whether the description is valid.
  validatorUrl: null,
});
